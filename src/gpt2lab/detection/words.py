"""Words that attacks put in the place of others."""

from collections.abc import Mapping


def _pairs(text: str) -> Mapping[str, tuple[str, ...]]:
    """`one:other` each."""
    found = (pair.split(":") for pair in text.split())
    return {one: (other,) for one, other in found}


def _groups(text: str) -> Mapping[str, tuple[str, ...]]:
    """Words of a line stand for each other."""
    lines = [line.split() for line in text.strip().splitlines()]
    return {word: tuple(w for w in line if w != word) for line in lines for word in line}


BRITISH = _pairs("""
color:colour colors:colours colored:coloured favor:favour favorite:favourite favorites:favourites
honor:honour honored:honoured humor:humour labor:labour neighbor:neighbour neighbors:neighbours
neighborhood:neighbourhood behavior:behaviour behaviors:behaviours flavor:flavour harbor:harbour
rumor:rumour rumors:rumours vapor:vapour armor:armour parlor:parlour savior:saviour
center:centre centers:centres centered:centred theater:theatre theaters:theatres meter:metre
meters:metres liter:litre fiber:fibre somber:sombre caliber:calibre luster:lustre specter:spectre
organize:organise organized:organised organizes:organises organizing:organising
organization:organisation organizations:organisations realize:realise realized:realised
realizes:realises realizing:realising recognize:recognise recognized:recognised
recognizes:recognises apologize:apologise apologized:apologised criticize:criticise
criticized:criticised emphasize:emphasise emphasized:emphasised analyze:analyse analyzed:analysed
initialize:initialise initialized:initialised optimize:optimise optimized:optimised
optimization:optimisation normalize:normalise normalized:normalised summarize:summarise
specialize:specialise specialized:specialised utilize:utilise utilized:utilised
memorize:memorise minimize:minimise maximize:maximise authorize:authorise authorized:authorised
serialize:serialise serialized:serialised characterize:characterise generalize:generalise
defense:defence offense:offence license:licence pretense:pretence
traveled:travelled traveling:travelling traveler:traveller canceled:cancelled
canceling:cancelling labeled:labelled labeling:labelling modeled:modelled modeling:modelling
marveled:marvelled quarreled:quarrelled counselor:counsellor jewelry:jewellery
gray:grey plow:plough skeptical:sceptical skeptic:sceptic program:programme programs:programmes
catalog:catalogue dialog:dialogue analog:analogue check:cheque tire:tyre aluminum:aluminium
pajamas:pyjamas mustache:moustache cozy:cosy mom:mum enroll:enrol fulfill:fulfil skillful:skilful
willful:wilful installment:instalment judgment:judgement aging:ageing gotten:got toward:towards
afterward:afterwards learned:learnt burned:burnt dreamed:dreamt spelled:spelt while:whilst
""")

MISSPELT = _pairs("""
the:teh and:adn that:taht with:wiht this:thsi have:ahve from:form their:thier they:tehy which:wich
because:becuase before:befor believe:beleive beginning:begining business:buisness
different:diffrent government:goverment immediately:immediatly interest:intrest
necessary:neccessary occurred:occured separate:seperate receive:recieve received:recieved
really:realy something:somthing sometimes:somtimes surprise:suprise through:throught
together:togather tomorrow:tommorow until:untill usually:usualy weird:wierd where:wehre would:woudl
could:coudl should:shoudl people:poeple first:frist friend:freind against:aganist again:agian
always:alwasy another:anohter around:arround being:beign between:betwen character:charcter
children:childern different:differnt either:eithr environment:enviroment example:exmaple
experience:experiance finally:finaly following:folowing great:graet house:huose important:importent
""")

SYNONYMS = _groups("""
big large great
small little tiny
begin start commence
began started commenced
end finish conclude
ended finished concluded
get obtain acquire
got obtained acquired
give provide grant
gave provided granted
given provided granted
say state declare
said stated declared
says states declares
tell inform notify
told informed notified
ask request inquire
asked requested inquired
show display reveal
showed displayed revealed
shown displayed revealed
make create produce
made created produced
makes creates produces
use employ utilise
used employed utilised
using employing utilising
help assist aid
helped assisted aided
need require want
needs requires wants
needed required wanted
think believe suppose
thought believed supposed
know understand realise
knew understood realised
see observe notice
saw observed noticed
seen observed noticed
look gaze glance
looked gazed glanced
find discover locate
found discovered located
keep retain hold
kept retained held
try attempt endeavour
tried attempted endeavoured
call name term
called named termed
leave depart exit
left departed exited
buy purchase
bought purchased
speak talk converse
spoke talked conversed
walk stroll march
walked strolled marched
run dash race
ran dashed raced
happy glad cheerful
sad unhappy gloomy
good fine excellent
bad poor terrible
old aged ancient
new fresh recent
fast quick rapid
quickly rapidly swiftly
slow sluggish gradual
slowly gradually leisurely
hard difficult tough
easy simple effortless
important significant crucial
possible feasible conceivable
different distinct diverse
same identical equal
many numerous several
few scarce rare
very extremely highly
also likewise additionally
however nevertheless nonetheless
but yet though
because since as
often frequently regularly
always constantly invariably
never hardly scarcely
maybe perhaps possibly
now currently presently
then afterwards subsequently
before previously earlier
after following later
about concerning regarding
near close nearby
far distant remote
house home dwelling
man fellow gentleman
woman lady female
child kid youngster
people folk persons
friend companion comrade
work labour toil
job task assignment
money cash funds
road street path
city town municipality
country nation land
world globe earth
way manner method
thing object item
part piece portion
place location spot
time moment period
day date
year twelvemonth
answer reply response
question query inquiry
problem issue trouble
idea notion concept
reason cause motive
result outcome consequence
change alter modify
changed altered modified
allow permit let
allowed permitted let
return revert restore
value worth figure
number figure quantity
list catalogue roster
error mistake fault
example instance case
power force strength
fear dread terror
anger rage fury
love affection adore
hate loathe detest
beautiful lovely pretty
strange odd peculiar
clear plain obvious
true genuine correct
false untrue incorrect
whole entire complete
main chief principal
next following subsequent
last final ultimate
""")
