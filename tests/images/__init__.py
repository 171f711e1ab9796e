"""The containers for real: built on a fresh Debian, listed, attacked, and a study played in them (`make images`)."""
