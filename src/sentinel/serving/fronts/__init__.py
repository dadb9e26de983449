"""Front workers: processes that hold the doors, one that scores, and one that watches them."""
