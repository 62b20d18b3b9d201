"""Jobs in processes of their own: what is said to them, how they start, and the devices they lease."""
