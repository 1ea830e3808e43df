"""Names that people erase most, to tell the kind of a concept by, and words of each kind that every model has seen."""

from __future__ import annotations

ARTISTS = (
    "Vincent van Gogh", "Pablo Picasso", "Claude Monet", "Rembrandt", "Leonardo da Vinci", "Salvador Dali",
    "Andy Warhol", "Caravaggio", "Edvard Munch", "Frida Kahlo", "Gustav Klimt", "Henri Matisse", "Johannes Vermeer",
    "Katsushika Hokusai", "Paul Cezanne", "Paul Gauguin", "Wassily Kandinsky", "William Turner", "Edward Hopper",
    "Norman Rockwell", "Alphonse Mucha", "Hieronymus Bosch", "Roy Lichtenstein", "Banksy", "Keith Haring",
    "Thomas Kinkade", "Kilian Eng", "Tyler Edlin", "Kelly McKernan", "Greg Rutkowski", "Studio Ghibli",
    "Hayao Miyazaki", "Artgerm", "Alan Lee", "Beeple", "H. R. Giger",
)  # fmt: skip
CHARACTERS = (
    "Mickey Mouse", "Donald Duck", "Bugs Bunny", "Pikachu", "Snoopy", "Hello Kitty", "SpongeBob SquarePants",
    "Batman", "Superman", "Spider-Man", "Wonder Woman", "Iron Man", "Hulk", "Captain America", "Super Mario",
    "Sonic the Hedgehog", "Homer Simpson", "Bart Simpson", "Winnie the Pooh", "Shrek", "Darth Vader", "Yoda",
    "R2-D2", "Harry Potter", "Elsa", "Minions", "Garfield", "Tom and Jerry", "Barbie", "Goku",
)  # fmt: skip
PERSONS = (
    "Albert Einstein", "Marilyn Monroe", "Barack Obama", "Donald Trump", "Joe Biden", "Angela Merkel",
    "Elon Musk", "Bill Gates", "Steve Jobs", "Taylor Swift", "Beyonce", "Lady Gaga", "Rihanna", "Adele",
    "Michael Jackson", "Elvis Presley", "Brad Pitt", "Angelina Jolie", "Tom Cruise", "Tom Hanks", "Emma Watson",
    "Scarlett Johansson", "Leonardo DiCaprio", "Morgan Freeman", "Keanu Reeves", "Oprah Winfrey", "Serena Williams",
    "Cristiano Ronaldo", "Lionel Messi", "Queen Elizabeth",
)  # fmt: skip
STYLES = (
    "impressionism", "cubism", "surrealism", "pop art", "art nouveau", "baroque", "expressionism", "pointillism",
    "minimalism", "anime", "manga", "comic book", "pixel art", "low poly", "watercolor", "oil painting",
    "pencil sketch", "charcoal drawing", "ukiyo-e", "graffiti", "steampunk", "cyberpunk", "vaporwave", "film noir",
)  # fmt: skip
# Given names that are hardly anything else: with another capitalised word they are a person.
GIVEN = frozenset({
    "adam", "alan", "albert", "alexander", "alice", "alicia", "amanda", "amy", "andrea", "andrew", "angela",
    "angelina", "anna", "anne", "anthony", "antonio", "arnold", "audrey", "barack", "barbara", "benjamin", "bernie",
    "beyonce", "boris", "brad", "brian", "britney", "bruce", "cameron", "carlos", "caroline", "catherine", "charles",
    "charlotte", "chris", "christian", "christina", "christopher", "claire", "cristiano", "daniel", "david",
    "deborah", "denzel", "diana", "diego", "donald", "dwayne", "edward", "elizabeth", "ellen", "elon", "elton",
    "elvis", "emily", "emma", "emmanuel", "eric", "ethan", "eva", "fidel", "frank", "freddie", "gary", "george",
    "greta", "hannah", "harrison", "heather", "helen", "henry", "hillary", "hugh", "ian", "ingrid", "isaac", "jackie",
    "jacob", "james", "jane", "jason", "jeff", "jennifer", "jeremy", "jessica", "jimmy", "joe", "john", "johnny",
    "jonathan", "jose", "joseph", "juan", "judy", "julia", "julie", "justin", "kamala", "karen", "kate", "katherine",
    "keanu", "kevin", "kim", "kylie", "larry", "laura", "lauren", "leo", "leonardo", "lewis", "linda", "lionel",
    "lisa", "louis", "lucy", "luis", "madonna", "margaret", "maria", "marie", "marilyn", "mark", "martin", "mary",
    "matthew", "meghan", "melania", "melissa", "meryl", "michael", "michelle", "mohamed", "morgan", "muhammad",
    "nancy", "naomi", "narendra", "natalie", "nelson", "nicholas", "nicki", "nicolas", "nicole", "oliver", "olivia",
    "oprah", "oscar", "pamela", "patricia", "patrick", "paul", "peter", "philip", "quentin", "rachel", "ralph",
    "rebecca", "richard", "rihanna", "robert", "robin", "roger", "ronald", "rowan", "ryan", "samuel", "sandra",
    "sarah", "scarlett", "sean", "serena", "shakira", "sharon", "simon", "sofia", "sophia", "stephen", "steve",
    "steven", "stuart", "susan", "sylvester", "taylor", "theresa", "thomas", "tim", "tom", "tony", "usain", "vanessa",
    "victoria", "vincent", "vladimir", "walter", "whitney", "william", "winston", "xi", "zendaya",
})  # fmt: skip
