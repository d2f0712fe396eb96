"""Methods that are implemented and tested, and not yet shown to help.

Each works as published or as its docstring says. None of them has beaten its controls
in an experiment of this project; docs/aggregation.md and docs/codecs.md have figures.
"""
