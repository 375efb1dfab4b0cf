package reference

// Everybody in this file is invented. Family and business names hold the word EXEMPLE so that nobody takes them for anything else; identifiers are of series that are not
// issued; telephone numbers are of the range that is kept for fiction (ARCEP, décision n° 2018-0881); only the communes exist.

// person is somebody invented.
type person struct {
	name, used, given, date, sex string
	place, country               string
	ine, jobseeker               string
}

const france = "99100"

var people = []person{
	// 0-3: a couple with two children, who bear two names.
	{name: "EXEMPLE ALPHA", given: "Camille Inès", date: "1984-03-14", sex: "F", place: "75107", country: france, jobseeker: "EX00001A"},
	{name: "EXEMPLE BRAVO", used: "EXEMPLE ALPHA", given: "Loïc", date: "1982-11-02", sex: "M", place: "13055", country: france},
	{name: "EXEMPLE ALPHA", given: "Zoé", date: "2012-06-30", sex: "F", place: "75107", country: france},
	{name: "EXEMPLE BRAVO", given: "Noé Élie", date: "2015-01-09", sex: "M", place: "75107", country: france},
	// 4-5: a parent alone with one child.
	{name: "EXEMPLE CHARLIE", given: "Anne-Sophie", date: "1990-08-25", sex: "F", place: "31555", country: france, jobseeker: "EX00002B"},
	{name: "EXEMPLE CHARLIE", given: "Hugo", date: "2018-04-17", sex: "M", place: "31555", country: france},
	// 6: alone.
	{name: "EXEMPLE DELTA", given: "Pierre Marie", date: "1975-12-01", sex: "M", place: "59350", country: france, jobseeker: "EX00003C"},
	// 7-10: born abroad, with three children.
	{name: "EXEMPLE ÉCHO", given: "Amina", date: "1988-02-29", sex: "F", country: "99350"},
	{name: "EXEMPLE ÉCHO", given: "Sami", date: "2008-09-05", sex: "M", place: "69123", country: france, ine: "0EXEMPLE01A"},
	{name: "EXEMPLE ÉCHO", given: "Lina", date: "2011-03-21", sex: "F", place: "69123", country: france},
	{name: "EXEMPLE ÉCHO", given: "Yanis", date: "2016-07-07", sex: "M", place: "69123", country: france},
	// 11-12: homonyms, born on the same day in two places. One is in a household, the other a student.
	{name: "EXEMPLE FOXTROT", given: "Jean", date: "2001-05-05", sex: "M", place: "33063", country: france},
	{name: "EXEMPLE FOXTROT", given: "Jean", date: "2001-05-05", sex: "M", place: "67482", country: france, ine: "0EXEMPLE02B"},
	// 13-20: students.
	{name: "EXEMPLE GOLF", given: "Maëlle", date: "2003-10-12", sex: "F", place: "75107", country: france, ine: "0EXEMPLE03C"},
	{name: "EXEMPLE HÔTEL", given: "Côme", date: "2004-01-31", sex: "M", place: "31555", country: france, ine: "0EXEMPLE04D"},
	{name: "EXEMPLE INDIA", given: "Léa Rose", date: "2002-07-19", sex: "F", place: "69123", country: france, ine: "0EXEMPLE05E"},
	{name: "EXEMPLE JULIETT", given: "Adam", date: "2005-02-11", sex: "M", place: "13055", country: france, ine: "0EXEMPLE06F"},
	{name: "EXEMPLE KILO", given: "Nina", date: "2003-12-24", sex: "F", place: "59350", country: france, ine: "0EXEMPLE07G"},
	{name: "EXEMPLE LIMA", given: "Tom", date: "2004-08-08", sex: "M", place: "33063", country: france, ine: "0EXEMPLE08H"},
	{name: "EXEMPLE MIKE", given: "Jade", date: "2001-11-11", sex: "F", place: "67482", country: france, ine: "0EXEMPLE09J"},
	{name: "EXEMPLE NOVEMBER", given: "Ali", date: "2003-04-04", sex: "M", country: "99352", ine: "0EXEMPLE10K"},
	// 21-25: job seekers and people with solidarity income.
	{name: "EXEMPLE OSCAR", given: "Danièle", date: "1968-06-16", sex: "F", place: "13055", country: france, jobseeker: "EX00004D"},
	{name: "EXEMPLE PAPA", given: "René", date: "1962-09-23", sex: "M", place: "75107", country: france, jobseeker: "EX00005E"},
	{name: "EXEMPLE QUÉBEC", given: "Fatou", date: "1995-05-15", sex: "F", country: "99341", jobseeker: "EX00006F"},
	{name: "EXEMPLE ROMÉO", given: "Julien", date: "1987-10-30", sex: "M", place: "31555", country: france, jobseeker: "EX00007G"},
	{name: "EXEMPLE SIERRA", given: "Odile", date: "1979-01-20", sex: "F", place: "59350", country: france},
	// 26-29: a retired couple, and two sole traders.
	{name: "EXEMPLE TANGO", given: "Georges", date: "1948-02-02", sex: "M", place: "69123", country: france},
	{name: "EXEMPLE UNIFORM", used: "EXEMPLE TANGO", given: "Hélène", date: "1951-12-12", sex: "F", place: "33063", country: france},
	{name: "EXEMPLE VICTOR", given: "Maxime Laurent Éric", date: "1980-03-03", sex: "M", place: "67482", country: france},
	{name: "EXEMPLE WHISKY", given: "Aurélie", date: "1985-07-27", sex: "F", place: "75107", country: france},
}

// household is a family as the family allowances know it; numbers are positions in people.
type household struct {
	adults, children []int
	quotient         int
	fund             string
	street, town     string
	// solidarity income: nil if the fund knows nothing about it.
	solidarity *solidarity
}

type solidarity struct {
	receives, increased bool
	since               string
}

var households = []household{
	{adults: []int{0, 1}, children: []int{2, 3}, quotient: 742, fund: "CNAF", street: "1 RUE DE L'EXEMPLE", town: "75007 PARIS", solidarity: &solidarity{}},
	{adults: []int{4}, children: []int{5}, quotient: 318, fund: "CNAF", street: "12 ALLÉE DE L'INVENTION", town: "31000 TOULOUSE", solidarity: &solidarity{receives: true, increased: true, since: "2024-02-01"}},
	{adults: []int{6}, quotient: 455, fund: "MSA", street: "3 CHEMIN IMAGINAIRE", town: "59000 LILLE", solidarity: &solidarity{receives: true, since: "2023-11-01"}},
	{adults: []int{7}, children: []int{8, 9, 10}, quotient: 206, fund: "CNAF", street: "8 PLACE DE LA FICTION", town: "69001 LYON", solidarity: &solidarity{receives: true, increased: true, since: "2022-06-31"}},
	{adults: []int{11}, quotient: 1100, fund: "CNAF", street: "5 RUE DE L'EXEMPLE", town: "33000 BORDEAUX"},
	{adults: []int{21}, quotient: 390, fund: "CNAF", street: "7 RUE DE L'EXEMPLE", town: "13001 MARSEILLE", solidarity: &solidarity{receives: true, since: "2025-01-01"}},
	{adults: []int{25}, quotient: 512, fund: "MSA", street: "9 RUE DE L'EXEMPLE", town: "59000 LILLE", solidarity: &solidarity{}},
	{adults: []int{26, 27}, quotient: 1890, fund: "CNAF", street: "11 RUE DE L'EXEMPLE", town: "69001 LYON"},
}

// declaration is one household's tax declaration of a year.
type declaration struct {
	declarants []int
	year       int
	income     int
	shares     float64
}

var declarations = []declaration{
	{[]int{0, 1}, 2024, 38450, 3}, {[]int{0, 1}, 2025, 39120, 3},
	{[]int{4}, 2025, 14200, 1.5}, {[]int{6}, 2025, 11875, 1}, {[]int{7}, 2025, 9310, 3},
	{[]int{26, 27}, 2024, 41002, 2}, {[]int{26, 27}, 2025, 41680, 2}, {[]int{28}, 2025, 27330, 1}, {[]int{29}, 2025, 33990, 1.25},
}

// scholarship and enrolment of students, by position in people.
var scholarships = map[int]string{8: "6", 12: "2", 13: "0bis", 15: "7", 16: "5", 20: "4"}

type enrolment struct{ from, to, uai, school, commune string }

var enrolments = map[int][]enrolment{
	8:  {{"2025-09-01", "2026-08-31", "0690000X", "UNIVERSITÉ EXEMPLE DE LYON", "69123"}},
	12: {{"2024-09-01", "2025-06-31", "0670000X", "UNIVERSITÉ EXEMPLE DE STRASBOURG", "67482"}, {"2025-09-01", "2026-08-31", "0670000X", "UNIVERSITÉ EXEMPLE DE STRASBOURG", "67482"}},
	13: {{"2025-09-01", "2026-08-31", "0750000X", "ÉCOLE EXEMPLE DE PARIS", "75107"}},
	14: {{"2025-09-01", "2026-08-31", "0310000X", "UNIVERSITÉ EXEMPLE DE TOULOUSE", "31555"}},
	15: {{"2025-09-01", "2026-08-31", "0690000X", "UNIVERSITÉ EXEMPLE DE LYON", "69123"}},
	16: {{"2025-09-01", "2026-08-31", "0130000X", "UNIVERSITÉ EXEMPLE DE MARSEILLE", "13055"}},
	17: {{"2022-09-01", "2023-08-31", "0590000X", "UNIVERSITÉ EXEMPLE DE LILLE", "59350"}},
	18: {{"2025-09-01", "2026-08-31", "0330000X", "UNIVERSITÉ EXEMPLE DE BORDEAUX", "33063"}},
	19: {},
	20: {{"2025-09-01", "2026-08-31", "0750000X", "ÉCOLE EXEMPLE DE PARIS", "75107"}},
}

// business is a legal unit with its one establishment; owner is the position of a sole trader in people, -1 for companies.
type business struct {
	siren, siret, name, short, form, formName string
	owner                                     int
	number, way, street, commune, postcode    string
	activity, activityName                    string
	created                                   int64
	closed                                    bool
}

var businesses = []business{
	{"900000118", "90000011800027", "EXEMPLE BOULANGERIE", "", "5499", "Société à responsabilité limitée", -1, "2", "RUE", "DE L'EXEMPLE", "75107", "75007", "10.71C", "Boulangerie et boulangerie-pâtisserie", 1262300400, false},
	{"900000126", "90000012600020", "EXEMPLE LOGICIELS", "EXLOG", "5710", "SAS, société par actions simplifiée", -1, "40", "AVENUE", "IMAGINAIRE", "31555", "31000", "62.01Z", "Programmation informatique", 1420066800, false},
	{"900000134", "90000013400024", "ASSOCIATION EXEMPLE", "ASSOEX", "9220", "Association déclarée", -1, "6", "PLACE", "DE LA FICTION", "69123", "69001", "94.99Z", "Autres organisations fonctionnant par adhésion volontaire", 599612400, false},
	{"900000142", "90000014200027", "EXEMPLE DISPARU", "", "5499", "Société à responsabilité limitée", -1, "1", "CHEMIN", "IMAGINAIRE", "59350", "59000", "47.11B", "Commerce d'alimentation générale", 816390000, true},
	{"900000159", "90000015900021", "", "", "1000", "Entrepreneur individuel", 28, "14", "RUE", "DE L'EXEMPLE", "67482", "67000", "74.10Z", "Activités spécialisées de design", 1085349600, false},
	{"900000167", "90000016700024", "", "", "1000", "Entrepreneur individuel", 29, "21", "RUE", "DE L'EXEMPLE", "75107", "75007", "90.03A", "Création artistique relevant des arts plastiques", 1577833200, false},
}

// commune is a real one: public facts of the Code officiel géographique.
type commune struct {
	code, name, department, departmentName string
	postcodes                              []string
	longitude, latitude                    float64
	arrondissement                         bool
}

var communes = []commune{
	{"75107", "Paris 7e Arrondissement", "75", "Paris", []string{"75007"}, 2.3125, 48.8561, true},
	{"13055", "Marseille", "13", "Bouches-du-Rhône", []string{"13001", "13002", "13003", "13004", "13005"}, 5.3806, 43.2803, false},
	{"31555", "Toulouse", "31", "Haute-Garonne", []string{"31000", "31100", "31200", "31300", "31400", "31500"}, 1.4328, 43.6007, false},
	{"33063", "Bordeaux", "33", "Gironde", []string{"33000", "33100", "33200", "33300", "33800"}, -0.5874, 44.8624, false},
	{"59350", "Lille", "59", "Nord", []string{"59000", "59160", "59260", "59777", "59800"}, 3.0470, 50.6311, false},
	{"67482", "Strasbourg", "67", "Bas-Rhin", []string{"67000", "67100", "67200"}, 7.7675, 48.5691, false},
	{"69123", "Lyon", "69", "Rhône", []string{"69001", "69002", "69003", "69004", "69005"}, 4.8351, 45.7580, false},
}
