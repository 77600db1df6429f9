"""Many simulations: studies, search and capacity. Each is one that `tokenflow run` could do alone."""
