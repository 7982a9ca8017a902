"""A module per figure: functions of plain data that return a matplotlib figure, without pyplot's global state."""
