"""The strict, versioned schema of an event: fields, decoding, refusals, quarantine."""
