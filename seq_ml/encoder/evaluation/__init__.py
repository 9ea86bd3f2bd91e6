"""How good an encoder is: its report beside simple models, judged in streams of users."""
