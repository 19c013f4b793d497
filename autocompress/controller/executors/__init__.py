"""Where candidates are evaluated: in the process of the search, in local processes, or by Ray Tune.

The driver owns the study; an executor takes jobs and gives back replies, in any order, and writes nothing to the study.
"""
