"""Where feature state lives: stores with one meaning and one conformance suite."""
