"""What the proxy costs: ``python -m bench`` for tables and a plot, ``python bench/NAME.py`` for one thing."""
