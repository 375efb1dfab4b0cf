package portal

// Mark names an identifier in the forms of a session.
var Mark = mark
