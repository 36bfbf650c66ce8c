"""KerasHub presets: their files are read as data, and their networks are built again from stock Keras layers."""
