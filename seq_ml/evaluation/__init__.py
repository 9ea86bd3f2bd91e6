"""Evaluation: metrics, bootstrap, calibration, backtest and report of every task."""
