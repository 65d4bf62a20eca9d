"""How near generated clips are to real ones, by named protocols: what `pavdit evaluate` is made of."""
