"""Laws that parts of an experiment obey, for tests of parts from outside the package.

    import pytest
    from capped import Capped

    from fedjax_rec import testing


    @pytest.mark.parametrize("law", testing.laws(Capped()), ids=str)
    def test_capped(law):
        law()

`fedjax-rec check FILE` runs the same laws on every kind that a file declares.
"""

from fedjax_rec.testing.by_slot import check as check
from fedjax_rec.testing.by_slot import laws as laws
from fedjax_rec.testing.law import Law as Law
from fedjax_rec.testing.law import LawBroken as LawBroken
from fedjax_rec.testing.law import NotApplicable as NotApplicable
from fedjax_rec.testing.law import Unbuilt as Unbuilt
