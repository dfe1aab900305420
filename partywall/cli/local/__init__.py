"""The composition root: commands that run parts of Partywall on this machine.

Only here may `partywall` import the other packages, and only inside functions, so that the light client stays light.
"""
