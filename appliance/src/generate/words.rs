//! Words that generated tokenizers know: common English and the trade's, the most useful first.

/// Separated by white space. Each is ASCII letters in lower case.
pub(super) const WORDS: &str = "
the of and a to in is it you that he was for on are with as his they at be this from have or by one had not but
what all were when we there can an your which their said if do will each about how up out them then she many some
so these would other into has more her two like him see time could no make than first been its who now people my
made over did down only way find use may water long little very after words called just where most know get
network signal radio tower cell link packet site box edge model token power sector antenna fibre traffic alarm fault
handover latency uplink downlink carrier channel band noise beam path route router switch load loss delay rate
time line node core mast roof cable field storm rain wind night day hour minute week engineer operator service
map log test check restart update report call data voice text phone device user station base band width clock
through back much before go good new write our me man too any same right look think also around another came come
work three must because does part even place well such here take why things help put years different away again
off went old number great tell men say small every found still between name should home big give air set own
under read last never us left end along while might next sound below saw something thought both few those always
looked show large often together asked house world going want school important until form food keep children feet
land side without once animal life enough took four head above kind began almost live page got earth need far hand
high year mother light country father let second soon paper group face
measure quality coverage indoor outdoor neighbour interference threshold counter
maintenance battery generator weather temperature cabinet street plant factory machine sensor camera door gate
please hello thanks yes maybe slow fast quiet loud green red blue white open close up down north south east west
green stop start wait send receive store serve answer question reason because plan step move hold turn rise fall
";
