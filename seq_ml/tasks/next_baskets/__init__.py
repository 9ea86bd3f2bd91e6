"""The next basket of each user: its items, its size and its day."""
