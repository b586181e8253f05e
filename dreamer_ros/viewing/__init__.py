"""Recorded episodes for people's eyes: films, plots, time lines."""
