"""Keys, doors and processes of a federation between real hospitals."""
