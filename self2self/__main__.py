"""`python -m self2self`."""

from self2self.cli import main

if __name__ == "__main__":
    main()
