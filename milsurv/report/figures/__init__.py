"""One module per figure: functions of plain data that return a matplotlib figure, without pyplot's global state.

A figure is shown in the report once it is listed in :data:`milsurv.report.gallery.FIGURES`.
"""
