"""Clients whose methods wait."""
