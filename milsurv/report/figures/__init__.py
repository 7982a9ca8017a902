"""A module for each figure: plain data in, a matplotlib figure made without global state out."""
