"""graphc.passes: what a program goes through on its way to a plan."""
