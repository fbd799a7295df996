"""How lesions are made: what is changed, how the changed networks run, and how they are compared."""
