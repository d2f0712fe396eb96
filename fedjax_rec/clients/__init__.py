"""Local training of one client on its examples."""
