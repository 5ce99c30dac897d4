"""`python cli.py fit image.png` from a checkout."""

from self2self.cli import main

if __name__ == "__main__":
    main()
