"""Why a score is what it is: exact contributions, checked against it, and words for them."""
