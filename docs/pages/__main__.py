"""`make results`."""

from . import results, studies

results.main()
studies.main()
