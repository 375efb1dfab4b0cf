// The words around a verdict, in each language. Written by go generate.
export default {
  "en": {
    "checking": "Your browser is checking…",
    "download": "Downloading the proofs…",
    "received": "Downloading the proofs: {got} of {of}",
    "coming": "Downloading the proofs: {got}",
    "progress": "{done} of {of} periods verified",
    "retry": "Try again",
    "save": "Save the evidence",
    "saved": "Evidence saved.",
    "tell": "Whom to tell",
    "reference": "Reference to quote:",
    "limits": "What isn't proven, and how to lift these limits ({n})",
    "worry": "To look into:",
    "scope": "What this check doesn't say",
    "checks": "What was checked",
    "evidence": "Evidence",
    "times": "Times of Paris in sentences, UTC in proofs.",
    "keys": "Keys and fingerprints",
    "of": "History of:",
    "whose": "Whose history this is. If it isn't exactly you, this verdict says nothing about you:",
    "compare": "Compare these fingerprints (SHA-256 of the key) with those that the supervisory authority, the witnesses or people you know have.",
    "worth": "A convenience: to be independent of this site, check with another tool",
    "independent": "This check is a convenience: the program comes from this server. The separate tool, regard-audit, is independent of it and gives the same verdict on the downloaded file.",
    "held": "verified",
    "partly": "verified in part",
    "failed": "refuted",
    "not_reached": "not reached",
    "causes": {
      "behind": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the file that came ends before what the page shows: closed days are missing from it.",
        "cause": "behind",
        "next": [
          "Witnesses usually confirm a day within minutes after its end: try again. If it takes longer than a day, something may be kept from you: ask the operator, then the data protection authority."
        ]
      },
      "browser": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: this browser can't run the verifier.",
        "cause": "browser",
        "next": [
          "You can check in another way: download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "clock": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the clock of this device is a day or more behind that of the log.",
        "cause": "clock",
        "next": [
          "Set the clock of this device, and load the page again. If it was right, it is the log that dates itself in the future: tell the data protection authority; download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "format": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the file that came is no history, or isn't whole.",
        "cause": "format",
        "next": [
          "Try again; if that doesn't help, download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "missing": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: this server has no verifier.",
        "cause": "missing",
        "next": [
          "You can check in another way: download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "offline": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the server could not be reached.",
        "cause": "offline",
        "next": [
          "Try again; if that doesn't help, download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "others": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the page and the file aren't of the same identifiers.",
        "cause": "others",
        "next": [
          "An identifier was added or removed, or somebody else signed in: load the page again."
        ]
      },
      "server": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the server could not give the file.",
        "cause": "server",
        "next": [
          "Try again; if that doesn't help, download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "session": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: your session is over.",
        "cause": "session",
        "next": [
          "Sign in again."
        ]
      },
      "signature": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the file isn't signed by the keys that were expected.",
        "cause": "signature",
        "next": [
          "Compare the fingerprints of the keys with those published elsewhere. If they are the same and this stays, tell the data protection authority; download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "stale": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the state of the log that the server shows is too old.",
        "cause": "stale",
        "next": [
          "Check the clock of this device, and try again later. If it takes longer than a day, something may be kept from you: ask the operator, then the data protection authority."
        ]
      },
      "subject": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the two histories aren't of the same person, or not of the same log.",
        "cause": "subject",
        "next": [
          "Try again; if that doesn't help, download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      },
      "verifier": {
        "state": "unverified",
        "title": "Not verified",
        "sentence": "It could not be verified: the verifier stopped.",
        "cause": "verifier",
        "next": [
          "Try again; if that doesn't help, download the file and check it with the separate tool (regard-audit verify-history)."
        ]
      }
    }
  },
  "fr": {
    "checking": "Votre navigateur vérifie…",
    "download": "Téléchargement des preuves…",
    "received": "Téléchargement des preuves : {got} sur {of}",
    "coming": "Téléchargement des preuves : {got}",
    "progress": "{done} périodes vérifiées sur {of}",
    "retry": "Réessayer",
    "save": "Enregistrer les preuves",
    "saved": "Preuves enregistrées.",
    "tell": "Qui prévenir",
    "reference": "Référence à citer :",
    "limits": "Ce qui n'est pas prouvé, et comment lever ces limites ({n})",
    "worry": "À éclaircir :",
    "scope": "Ce que cette vérification ne dit pas",
    "checks": "Ce qui a été vérifié",
    "evidence": "Éléments de preuve",
    "times": "Heures de Paris dans les phrases, UTC dans les preuves.",
    "keys": "Clés et empreintes",
    "of": "Historique de :",
    "whose": "De qui est cet historique. Si ce n'est pas exactement vous, ce verdict ne dit rien de vous :",
    "compare": "Comparez ces empreintes (SHA-256 de la clé) avec celles que publient l'autorité de contrôle, les témoins ou vos proches.",
    "worth": "Une commodité : pour ne pas dépendre de ce site, vérifiez avec un autre outil",
    "independent": "Cette vérification est une commodité : le programme vient de ce serveur. L'outil séparé, regard-audit, ne dépend pas de lui et donne le même verdict sur le fichier téléchargé.",
    "held": "vérifié",
    "partly": "vérifié en partie",
    "failed": "réfuté",
    "not_reached": "pas atteint",
    "causes": {
      "behind": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le fichier reçu s'arrête avant ce que la page montre : des journées closes y manquent.",
        "cause": "behind",
        "next": [
          "Les témoins confirment d'ordinaire une journée quelques minutes après sa fin : réessayez. Si cela dure plus d'une journée, quelque chose vous est peut-être caché : demandez à l'exploitant, puis à la CNIL."
        ]
      },
      "browser": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : ce navigateur ne sait pas exécuter le vérificateur.",
        "cause": "browser",
        "next": [
          "Vous pouvez vérifier autrement : téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "clock": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : l'horloge de cet appareil retarde d'un jour ou plus sur celle du registre.",
        "cause": "clock",
        "next": [
          "Réglez l'horloge de cet appareil, et rechargez la page. Si elle était juste, c'est le registre qui se date dans l'avenir : prévenez la CNIL ; téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "format": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le fichier reçu n'est pas un historique, ou n'est pas entier.",
        "cause": "format",
        "next": [
          "Réessayez ; si cela ne change rien, téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "missing": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : ce serveur n'a pas de vérificateur.",
        "cause": "missing",
        "next": [
          "Vous pouvez vérifier autrement : téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "offline": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le serveur n'a pas pu être joint.",
        "cause": "offline",
        "next": [
          "Réessayez ; si cela ne change rien, téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "others": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : la page et le fichier ne sont pas des mêmes identifiants.",
        "cause": "others",
        "next": [
          "Un identifiant a été ajouté ou retiré, ou quelqu'un d'autre s'est connecté : rechargez la page."
        ]
      },
      "server": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le serveur n'a pas pu donner le fichier.",
        "cause": "server",
        "next": [
          "Réessayez ; si cela ne change rien, téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "session": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : votre session est terminée.",
        "cause": "session",
        "next": [
          "Connectez-vous de nouveau."
        ]
      },
      "signature": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le fichier n'est pas signé par les clés attendues.",
        "cause": "signature",
        "next": [
          "Comparez les empreintes des clés avec celles publiées ailleurs. Si elles sont les mêmes et que cela dure, prévenez la CNIL ; téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "stale": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : l'état du registre que le serveur montre est trop ancien.",
        "cause": "stale",
        "next": [
          "Vérifiez l'horloge de cet appareil, et réessayez plus tard. Si cela dure plus d'une journée, quelque chose vous est peut-être caché : demandez à l'exploitant, puis à la CNIL."
        ]
      },
      "subject": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : les deux historiques ne sont pas de la même personne, ou pas du même registre.",
        "cause": "subject",
        "next": [
          "Réessayez ; si cela ne change rien, téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      },
      "verifier": {
        "state": "unverified",
        "title": "Non vérifié",
        "sentence": "La vérification n'a pas pu se faire : le vérificateur s'est arrêté.",
        "cause": "verifier",
        "next": [
          "Réessayez ; si cela ne change rien, téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)."
        ]
      }
    }
  }
};
