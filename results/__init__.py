"""Records of evaluations, their store and their tables; no torch, opens anywhere in a second."""
