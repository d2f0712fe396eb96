"""The words of the grammar. No word belongs to two tastes."""

TASTE_WORDS = {
    "Fantasy": (
        "Ember Dragon Crown Wizard Oath Sword Rune Throne Griffin Prophecy",
        "Northern Enchanted Ancient Shattered Emerald Mythic Runed Elven Fabled Cursed",
        "Reach Kingdom Citadel Vale Keep Moor Tower Glade Realm Dominion",
    ),
    "Noir": (
        "Detective Alibi Cipher Witness Suspect Revolver Ledger Informer Killer Motive",
        "Midnight Crooked Smoky Silent Guilty Shadowed Cold Unsolved Missing Dead",
        "Alley Precinct Harbor Backstreet Motel Courtroom Pier District Cellar Casino",
    ),
    "Space": (
        "Star Comet Android Signal Starship Orbit Nebula Colony Astronaut Photon",
        "Quantum Stellar Galactic Lunar Cosmic Interstellar Robotic Zero Binary Solar",
        "Station Galaxy Horizon Outpost Planet Void Asteroid Frontier Moonbase Rift",
    ),
    "Romance": (
        "Kiss Letter Bride Promise Heart Waltz Rose Sweetheart Wedding Embrace",
        "Tender Forbidden Summer Secret Longing Velvet Gentle Blushing Devoted Starlit",
        "Garden Ballroom Cottage Paris Orchard Balcony Vineyard Seaside Chapel Lagoon",
    ),
    "War": (
        "Soldier Battalion Trench General Sniper Siege Medic Regiment Bugle Bayonet",
        "Last Fallen Iron Marching Armoured Burning Wounded Decorated Muddy Valiant",
        "Front Bunker Beachhead Bridge Battlefield Barracks Ridge Garrison Fort Line",
    ),
    "Nature": (
        "Wolf River Whale Fern Eagle Glacier Otter Seed Coral Migration",
        "Wild Green Blooming Untamed Migrating Feathered Rooted Tidal Mossy Frozen",
        "Forest Savanna Reef Wetland Canopy Tundra Delta Meadow Canyon Rainforest",
    ),
    "Music": (
        "Song Drummer Ballad Guitar Chorus Rhythm Melody Symphony Encore Trumpet",
        "Electric Acoustic Jazzy Syncopated Loud Harmonic Sung Soulful Tuned Bluesy",
        "Stage Studio Jukebox Opera Bandstand Festival Rehearsal Hall Club Choir",
    ),
    "Comedy": (
        "Clown Neighbour Prank Uncle Roommate Goose Sandwich Dentist Boss Mishap",
        "Silly Awkward Clumsy Ridiculous Bumbling Giggling Absurd Goofy Hapless Wacky",
        "Office Diner Rooftop Campsite Carpool Circus Laundromat Suburb Canteen Zoo",
    ),
}
"""Name of a taste to its nouns, adjectives and places."""

PLAIN_ADJECTIVES = "Great Little New Old Long Second Other Lost First Final Open Quiet"
"""Adjectives of any taste."""

SYLLABLES = tuple(onset + vowel for vowel in "aeiou" for onset in "bdfgklmnrstvz")
"""What the words of further tastes are invented from."""

SURNAMES = (
    "Adler Barro Castell Dunmore Ekholm Farrow Greaves Hollis Ibarra Jessup Kader "
    "Lindqvist Moran Nwosu Okafor Pereira Quint Rasmus Solano Tanaka Ueda Varga "
    "Whitlow Yilmaz"
)
"""Who makes items."""

FIRMS = "House Works Studio Press Brothers Company Guild Union"
"""What a maker is called after its surname."""
