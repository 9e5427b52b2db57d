"""`make results`."""

from . import certainty, charges, commands, results, studies, trust

commands.main()
results.main()
charges.main()
studies.main()
certainty.main()
trust.main()
