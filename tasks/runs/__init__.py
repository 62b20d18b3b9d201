"""Which run a spec belongs to, and what must be right before it starts."""
