"""The doors: HTTP and gRPC, which only translate; who may enter, and over what."""
