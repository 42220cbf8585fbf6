"""How good a model is, measured by its pictures."""
