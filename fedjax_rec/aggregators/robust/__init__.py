"""Rules that a share of attackers among the clients cannot move far."""
