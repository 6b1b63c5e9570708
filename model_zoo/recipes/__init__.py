"""Training recipes: one file a method, shared steps beside them."""
