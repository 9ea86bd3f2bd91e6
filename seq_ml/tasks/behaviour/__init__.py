"""Behaviour of users as several tasks read it: visits, features, vectors, the orders model."""
