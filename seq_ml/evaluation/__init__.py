"""Evaluation: tasks are judged by backtest, walk-forward and checks for leaks, and reported."""
