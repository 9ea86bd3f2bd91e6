"""Sources that are shipped: the worked example of a retailer's year."""
