package proof

import (
	"fmt"
	"strings"
)

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// isCommune reports whether s has the form of an INSEE commune code:
// department 01 to 95, 2A, 2B (20 before 1976), or 97x and 98x overseas. It
// does not know which communes exist or existed.
func isCommune(s string) bool {
	if len(s) != 5 || !digits(s[2:]) {
		return false
	}
	if d := s[:2]; d == "2A" || d == "2B" {
		return true
	}
	if !digits(s[:2]) {
		return false
	}
	d := int(s[0]-'0')*10 + int(s[1]-'0')
	return d >= 1 && d <= 95 || (d == 97 || d == 98) && s[2] != '0'
}

// isCountry reports whether s has the form of an INSEE country code.
func isCountry(s string) bool {
	return len(s) == 5 && s[:2] == "99" && digits(s) && s[2] != '0'
}

// compact removes spaces, with which people write identifiers.
func compact(s string) string { return strings.ReplaceAll(s, " ", "") }

// NIR returns the subject for a social security number: 15 characters, or 13
// to which the key is added. Spaces are removed, 2a and 2b written in capitals.
func NIR(s string) (Subject, error) {
	s = strings.ToUpper(compact(s))
	if len(s) == 13 {
		key, err := nirKey(s)
		if err != nil {
			return Subject{}, err
		}
		s += fmt.Sprintf("%02d", key)
	}
	if err := checkNIR(s); err != nil {
		return Subject{}, err
	}
	return newSubject(TypeNIR, s), nil
}

// nirKey computes 97 − (number mod 97); for Corsica 2A counts as 19 and 2B as
// 18 (décret n° 82-103, INSEE).
func nirKey(s string) (uint64, error) {
	bad := fmt.Errorf("nir: want 13 digits (2A and 2B for Corsica) and a key of 2: %w", ErrSubject)
	if len(s) != 13 || s[0] == '0' || s[0] == '9' {
		return 0, bad
	}
	d := s
	switch s[5:7] {
	case "2A":
		d = s[:5] + "19" + s[7:]
	case "2B":
		d = s[:5] + "18" + s[7:]
	}
	n, ok := parseUint([]byte(d))
	if !ok {
		return 0, bad
	}
	return 97 - n%97, nil
}

func checkNIR(s string) error {
	if len(s) != 15 || !digits(s[13:]) {
		return fmt.Errorf("nir: want 15 characters: %w", ErrSubject)
	}
	key, err := nirKey(s[:13])
	if err != nil {
		return err
	}
	if uint64(s[13]-'0')*10+uint64(s[14]-'0') != key {
		return fmt.Errorf("nir: the key does not match the number: %w", ErrSubject)
	}
	return nil
}

// INE returns the subject for a national student number: 11 digits and
// letters, which are written in capitals.
func INE(s string) (Subject, error) {
	s = strings.ToUpper(compact(s))
	if !isINE(s) {
		return Subject{}, fmt.Errorf("ine: want 11 digits and letters: %w", ErrSubject)
	}
	return newSubject(TypeINE, s), nil
}

func isINE(s string) bool {
	if len(s) != 11 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

// FranceTravail returns the subject for a France Travail identifier, as issued:
// letter case counts.
func FranceTravail(s string) (Subject, error) {
	if !isFranceTravail(s) {
		return Subject{}, fmt.Errorf("france_travail: want 1 to 32 of A-Z a-z 0-9 _ -: %w", ErrSubject)
	}
	return newSubject(TypeFranceTravail, s), nil
}

func isFranceTravail(s string) bool {
	if len(s) < 1 || len(s) > 32 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// SIREN returns the subject for a business number of 9 digits. Spaces are
// removed. A SIRET is filed under its SIREN: pass its first nine digits.
func SIREN(s string) (Subject, error) {
	s = compact(s)
	if !isSIREN(s) {
		return Subject{}, fmt.Errorf("siren: want 9 digits with a valid check digit: %w", ErrSubject)
	}
	return newSubject(TypeSIREN, s), nil
}

func isSIREN(s string) bool { return len(s) == 9 && digits(s) && luhn(s) }

// laPoste has so many establishments that its SIRETs follow a rule of their
// own: the sum of the digits is a multiple of 5.
const laPoste = "356000000"

// SIRET checks the number of an establishment: 14 digits without spaces, with
// a valid check digit.
func SIRET(s string) error {
	if len(s) != 14 || !digits(s) {
		return fmt.Errorf("siret: want 14 digits: %w", ErrSubject)
	}
	ok := isSIREN(s[:9]) && luhn(s)
	if s[:9] == laPoste && !ok {
		sum := 0
		for i := 0; i < len(s); i++ {
			sum += int(s[i] - '0')
		}
		ok = sum%5 == 0
	}
	if !ok {
		return fmt.Errorf("siret: the check digit does not match: %w", ErrSubject)
	}
	return nil
}

// luhn computes the check of ISO/IEC 7812 over digits.
func luhn(s string) bool {
	sum := 0
	for i := 0; i < len(s); i++ {
		d := int(s[len(s)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}
