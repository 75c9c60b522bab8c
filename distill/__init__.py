"""Train small models of the Hummingbird family."""
