"""What the routing brain is made of: outcomes, health, quotas, strategies. Pure; the door is ``router``."""
