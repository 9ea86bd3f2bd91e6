"""Ads: who responds to which campaign, and whom to contact."""
