"""What can be diagnosed: each kind of target is opened by a module of its own, and is a `Target` from then on."""
