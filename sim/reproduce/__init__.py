"""The TokenFlow paper held to account: its claims, the runs that test them, and what comes of it. See `tokenflow reproduce`.

claims.py is what the paper says, setups.py on what we run it, items/ the figures and tables, runs.py does the runs,
verdicts.py judges, page.py and pictures.py show. Nothing in here touches physics or policies.
"""
