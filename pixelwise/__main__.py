"""`python -m pixelwise` is the command `pixelwise`; training on several devices starts itself this way."""

from .cli import main

if __name__ == "__main__":
    main()
