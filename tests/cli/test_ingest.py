# SPDX-License-Identifier: MIT
"""Shows that ingest makes of each raw format exactly the survey that it should, the same one whatever the order of files and rows
and the number of ranks, that it accounts for every row, and that a bad file leaves nothing behind."""
import fcntl
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import numpy as np
from harness import MPIRUN, PROGRAM, ROOT, CommandLineTest, main
from surveys import Survey, cut

DATA = ROOT.parent / "shared" / "data"


def make_stars(count, seed=1, least=3, most=120, prefix="star"):
    """Rows of text [time, magnitude, error] by id: short and long ones, calm and variable ones."""
    draw = random.Random(seed)
    stars = {}
    for i in range(count):
        spread = draw.choice([0.01, 0.3])
        time = 50000 + draw.random()
        rows = []
        for _ in range(draw.randint(least, most)):
            time += draw.random() * 5
            rows.append((f"{time:.5f}", f"{draw.gauss(16, spread):.3f}", f"{draw.uniform(0.01, 0.1):.3f}"))
        stars[f"{prefix}{i}"] = rows
    return stars


def long_csv(stars, seed=None, header="id,mjd,mag,err\n"):
    rows = [f"{name},{','.join(row)}\n" for name, star in stars.items() for row in star]
    if seed is not None:
        random.Random(seed).shuffle(rows)
    return header + "".join(rows)


def counts(out):
    """The numbers of the report by what they count."""
    return {what: int(number) for number, what in re.findall(r"^ +(\d+)  (.*)$", out, re.MULTILINE)}


class IngestTest(CommandLineTest):
    def ingest(self, *words, out="out/survey", shards=4, **options):
        """A successful ingest: the survey, and the counts of the report, which must add up. shards None leaves the default."""
        words = (*words, "--shards", shards) if shards else words
        result = self.expect(0, "ingest", "--out", out, *words, **options)
        survey, count = Survey(self.folder / out), counts(result.out)
        self.check_sums(result.out, survey)
        self.assertEqual(self.left(out), [Path(out).name])
        return survey, count

    def left(self, out="out/survey"):
        folder = (self.folder / out).parent
        return sorted(os.listdir(folder)) if folder.exists() else None

    def check_sums(self, out, survey):
        """Every row and every light curve has exactly one fate, and what is kept is what is there."""
        blocks = re.findall(r"^ {1,13}(\d+)  (rows read|light curves)[^\n]*\n((?:  +\d+  [^\n]*\n)*?)  +(\d+)  kept\n", out, re.MULTILINE)
        self.assertEqual([block[1] for block in blocks], ["rows read", "light curves"], out)
        for total, _, fates, kept in blocks:
            self.assertEqual(int(total), sum(map(int, re.findall(r"^ +(\d+)  ", fates, re.MULTILINE))) + int(kept), out)
        self.assertEqual(int(blocks[0][3]), sum(len(curve[0]) for curve in survey.curves.values()))
        self.assertEqual(int(blocks[1][3]), len(survey.curves))

    def check_curves(self, survey, stars, keep="any", distinct=False, rename=lambda name: name):
        """The survey has the light curves of the stars, cut, and no others."""
        expected = {rename(name): cut(rows, keep, distinct)[0] for name, rows in stars.items()}
        expected = {name: rows for name, rows in expected.items() if rows is not None}
        self.assertTrue(expected)
        self.assertEqual(sorted(survey.curves), sorted(expected))
        for name, rows in expected.items():
            for column in range(3):
                self.assertTrue(np.array_equal(survey.curves[name][column], rows[:, column]), f"{name} column {column}")

    def refuse(self, status, *words, out="out/survey", ranks=None, stays=None):
        """A failing ingest: one line, and nothing of it is left. Returns the line."""
        message = self.expect(status, "ingest", "--out", out, *words, ranks=ranks).message
        self.assertEqual(self.left(out), stays, message)
        return message


class Formats(IngestTest):
    def test_long_csv(self):
        stars = make_stars(40)
        survey, count = self.ingest(self.write("a.csv", long_csv(stars)), "--band", "V", shards=8)
        self.check_curves(survey, stars)
        self.assertEqual((survey.shards, survey.band, survey.name), (8, "V", "survey"))
        self.assertEqual(count["dropped: fewer than 5 observations"], sum(cut(rows)[1] == "short" for rows in stars.values()))
        self.assertEqual(count["dropped: not variable"], sum(cut(rows)[1] == "calm" for rows in stars.values()))
        self.assertNotIn("labels", count)

    def test_filters(self):
        stars = make_stars(40)
        stars["spiky"] = [(str(i), "15" if i % 50 else "20", "0.1") for i in range(300)]
        stars["spiky"] = [(t, f"{float(m) + int(t) * 1e-5:.5f}", e) for t, m, e in stars["spiky"]]
        path = self.write("a.csv", long_csv(stars))
        for keep in ("any", "all", "off"):
            survey, _ = self.ingest(path, "--filter", keep, out=f"{keep}/survey")
            self.check_curves(survey, stars, keep)
            self.assertIn(f"pass: {keep}", survey.cuts)

    def test_odd_but_fine_tables(self):
        stars = make_stars(5, least=30)
        rows = [(name, *row) for name, star in stars.items() for row in star]
        tables = {
            "crlf and mark": b"\xef\xbb\xbf" + long_csv(stars).replace("\n", "\r\n").encode(),
            "no last line end": long_csv(stars).rstrip("\n"),
            "blank lines": "\n\n" + long_csv(stars) + "\n\n\r\n  \n",
            "blanks": "Id , MJD , Mag , Err \n" + "".join(f" {' , '.join(row)} \n" for row in rows),
            "quotes": '"ID","Time","Magnitude","Error"\n' + "".join(f'"{r[0]}",{r[1]},"{r[2]}",{r[3]}\n' for r in rows),
            "semicolons": "err;ra;mag;star_id;hjd\n" + "".join(f"{r[3]};12.5;{r[2]};{r[0]};{r[1]}\n" for r in rows),
            "tabs": "object\tmjd\tmag\tmagerr\tnote\n" + "".join("\t".join(r) + "\tfine\n" for r in rows),
            "two words": "Star ID,MJD,Mag,Mag Err\n" + "".join(",".join(r) + "\n" for r in rows),
            "comment before the header": "# columns: id, mjd,mag,err\n#mjd,mag,err\n" + long_csv(stars),
            "numbered rows": "\tid\tmjd\tmag\terr\n" + "".join("\t".join((str(i), *r)) + "\n" for i, r in enumerate(rows)),
            "many columns": ";".join(["id", "field", "tile", "seq", "mjd", "mag", "err", *(f"c{i}" for i in range(40))]) + "\n"
            + "".join(";".join([r[0], "1", "2", "3", *r[1:], *["0"] * 40]) + "\n" for r in rows),
            "comments": "# a survey\n#\n#id,mjd,mag,err\n" + "# more\n".join(",".join(r) + "\n" for r in rows),
            "exponents": "id,mjd,mag,err\n" + "".join(f"{r[0]},{float(r[1]) / 1e4!r}e4,+{r[2]},{float(r[3]) * 1e2!r}E-02\n" for r in rows),
        }
        for name, table in tables.items():
            with self.subTest(name):
                survey, _ = self.ingest(self.write("a.csv", table), out=f"{name}/survey")
                if name == "exponents":
                    self.assertEqual(len(survey.curves), sum(cut(star)[0] is not None for star in stars.values()))
                else:
                    self.check_curves(survey, stars)

    def test_named_columns(self):
        stars = make_stars(5, least=30)
        table = self.write("a.csv", long_csv(stars, header="KIC,t(d),Kp,err\n"))
        self.check_curves(self.ingest(table, "--columns", "id=kic,time=t(d),magnitude=Kp")[0], stars)
        self.assertIn("'KIC,t(d),Kp,err'", self.refuse(1, table, out="b/survey"))
        self.assertIn("'KIC,t(d),Kp,err'", self.refuse(1, table, "--columns", "id=nobody,time=t(d),magnitude=Kp", out="b/survey"))
        for name in ("system_id", "MAP ID", "SpecID", "Star number"):
            other = self.write("n.csv", long_csv(stars, header=f"{name},mjd,mag,err\n"))
            self.assertIn(f"--columns id={name}", self.refuse(1, other, out="b/survey"))
        several = self.write("b.csv", long_csv(stars, header="photid,mjd,mag,err\n"))
        self.assertIn("--columns id=photid", self.refuse(1, several, out="b/survey"))
        self.check_curves(self.ingest(several, "--columns", "id=photid", out="c/survey")[0], stars)
        rows = stars["star0"]
        for number, (name, *words) in enumerate((["expid"], ["phot_id", "--columns", "id=none"], ["resid"], ["mjd-mid"], ["OBS_ID"])):
            text = f"{name},mjd,mag,err\n" + "".join(f"{i},{','.join(row)}\n" for i, row in enumerate(rows))
            one = self.write("one.csv", text)
            survey, _ = self.ingest(one, *words, "--filter", "off", out=f"one{number}/survey", shards=1)
            self.check_curves(survey, {"one": rows}, keep="off")
        self.assertIn("'colour'", self.refuse(2, table, "--columns", "colour=red", out="b/survey"))
        self.assertIn("twice", self.refuse(2, table, "--columns", "id=a,id=b", out="b/survey"))

    def test_band_column(self):
        """--band chooses rows; without it a table of one band gives the survey its name, one of several is refused."""
        stars = {band: make_stars(5, least=30, seed=seed) for seed, band in enumerate("gri")}
        rows = [(name, *row, band) for band, some in stars.items() for name, star in some.items() for row in star]
        random.Random(1).shuffle(rows)
        table = self.write("a.csv", "id,mjd,mag,err,Filter\n" + "".join(",".join(row) + "\n" for row in rows))
        survey, count = self.ingest(table, "--band", "r")
        self.check_curves(survey, stars["r"])
        self.assertEqual((survey.band, count["of another band"]), ("r", sum(row[4] != "r" for row in rows)))
        other = next(row[4] for row in rows if row[4] != rows[0][4])
        self.assertRegex(self.refuse(1, table, out="b/survey"), f"a.csv: line .* band '{other}'.* '{rows[0][4]}'.* --band")
        self.assertIn("no row is of band 'R'", self.refuse(1, table, "--band", "R", out="b/survey", ranks=2))
        survey, _ = self.ingest(table, "--columns", "band=filter,error=err", "--band", "i", out="i/survey")
        self.check_curves(survey, stars["i"])
        for band in "gr":
            one = [row for row in rows if row[4] == band] + [("lost", "1", "2", "0.1", " ")]
            self.write(f"{band}.csv", "id,mjd,mag,err,band\n" + "".join(",".join(row) + "\n" for row in one))
        survey, count = self.ingest("g.csv", out="g/survey", ranks=2)
        self.check_curves(survey, stars["g"])
        self.assertEqual((survey.band, count["bad: too few fields"]), ("g", 1))
        for ranks in (1, 2):
            self.assertIn("choose it with --band", self.refuse(1, "g.csv", "r.csv", out="b/survey", ranks=ranks))
        survey, _ = self.ingest("g.csv", "r.csv", "--band", "g", out="two/survey", ranks=2)
        self.check_curves(survey, stars["g"])

    def test_julian_dates(self):
        """Times that can only be Julian dates become MJD; truncated ones stay."""
        stars = make_stars(5, least=30)
        julian = {name: [(f"{float(row[0]) + 2400000.5:.5f}", *row[1:]) for row in rows] for name, rows in stars.items()}
        survey, count = self.ingest(self.write("a.csv", long_csv(julian, header="id,hjd,mag,err\n")))
        for name, rows in stars.items():
            if (wanted := cut(rows)[0]) is not None:
                np.testing.assert_allclose(survey.curves[name][0], wanted[:, 0], rtol=0, atol=1e-8)
        self.assertEqual(count["had a Julian date as time: 2400000.5 was taken off, MJD is kept"], sum(map(len, stars.values())))
        survey, count = self.ingest(self.write("b.csv", long_csv(stars, header="id,hjd,mag,err\n")), out="b/survey")
        self.check_curves(survey, stars)
        self.assertFalse([what for what in count if "Julian" in what])

    def test_nearest_floats(self):
        """The magnitude 1.0000000596046448 is just above the middle between two floats, which as a double it seems to be."""
        texts = ["1.00000005960464477540", "1.00000005960464477538", "1.000000059604644775390625"]
        rows = [(f"{i}", texts[i % 3] if 4 < i < 16 else f"{i / 100}", "0.1") for i in range(20)]
        survey, _ = self.ingest(self.write("star.csv", "".join(",".join(row) + "\n" for row in rows)), "--filter", "off")
        kept = {float(time): magnitude for time, magnitude in zip(*survey.curves["star"][:2])}
        above = {time: float(magnitude) > 1 for time, magnitude in kept.items() if 4 < time < 16}
        self.assertEqual(above, {time: time % 3 == 0 for time in above})
        self.assertGreaterEqual(len(above), 6)

    def test_table_of_one_star(self):
        stars = make_stars(3, least=30)
        paths = [self.write(f"in/{name}.csv", "MJD,mag,err\n" + "".join(",".join(row) + "\n" for row in rows))
                 for name, rows in stars.items()]
        self.check_curves(self.ingest(*paths)[0], stars)

    def test_star_csv(self):
        stars = make_stars(6, least=30)
        for i, (name, rows) in enumerate(stars.items()):
            delimiter = [",", ";", "\t", "  ", ", ", ","][i]
            table = "".join(delimiter.join(row) + "\n" for row in rows).encode()
            name = name + ["", ".csv", ".dat", ".txt.gz", ".lc", ".csv.gz"][i]
            self.write(f"in/deep/{name}", gzip.compress(table) if name.endswith(".gz") else table)
        self.write("in/.hidden", "not a star")
        survey, count = self.ingest("in")
        self.check_curves(survey, stars)
        self.assertEqual(count["files"], 6)

    def test_macho_dump(self):
        """39 fields, both bands in a line; a band that failed has values outside the cut."""
        red, blue, lines = make_stars(6, 2, least=30), make_stars(6, 3, least=30), []
        ids = {name: f"{1 + i % 2}.{3444 + i}.{i * 7 + 1}" for i, name in enumerate(red)}
        for name in red:
            field, tile, sequence = ids[name].split(".")
            blue[name] = [(r[0], b[1], b[2]) for r, b in zip(red[name], blue[name])]
            for i, row in enumerate(red[name]):
                columns = ["0"] * 39
                columns[0:5] = ["1", field, tile, sequence, row[0]]
                columns[9:11] = row[1:]
                columns[24:26] = blue[name][i][1:] if i < len(blue[name]) else ("-99.000", "9.999")
                lines.append(";".join(columns) + "\n")
        random.Random(5).shuffle(lines)
        path = self.write("F_1", gzip.compress("".join(lines).encode()))
        survey, count = self.ingest(path, out="default/survey")
        self.check_curves(survey, red, rename=ids.get)
        self.assertEqual(survey.band, "R")
        survey, count = self.ingest(path, "--band", "R", out="red/survey")
        self.check_curves(survey, red, rename=ids.get)
        survey, count = self.ingest(path, "--band", "b", out="blue/survey")
        self.check_curves(survey, blue, rename=ids.get)
        self.assertEqual(survey.band, "B")
        failed = sum(len(red[name]) - len(blue[name]) for name in red)
        self.assertEqual(count["bad: error not between 0 and 1"], failed)
        self.assertIn("R and B", self.refuse(2, path, "--band", "V", out="v/survey"))
        broken = "".join(lines[:3]) + "1;2;3\n" + lines[3].replace(";", ";x", 2) + "".join(lines[4:])
        survey, count = self.ingest(self.write("broken.dump", broken), out="broken/survey")
        self.assertEqual((count["bad: too few fields"], count["bad: no usable id"]), (1, 1))

    def test_macho_star_files(self):
        stars = make_stars(3, least=30)
        head = "#Field Tile Seq RA(hour) Dec(deg) Filter mean_Mag\n#1 3444 614 5.0 -69 B -5.9\n#MJD Mag Err\n"
        for i, rows in enumerate(stars.values()):
            for band in "RB":
                self.write(f"in/lc_1.{i}.614.{band}.mjd", head + "".join(" ".join(row) + "\n" for row in rows))
        numbers = {name: i for i, name in enumerate(stars)}
        survey, count = self.ingest("in", "--band", "R", out="r/survey")
        self.check_curves(survey, stars, rename=lambda name: f"1.{numbers[name]}.614")
        self.assertEqual((survey.band, count["of another band, left out"]), ("R", 3))
        survey, count = self.ingest("in", out="both/survey")
        self.check_curves(survey, {f"1.{i}.614.{band}": rows for i, rows in enumerate(stars.values()) for band in "RB"})
        self.assertEqual(survey.band, "B,R")
        for path in (self.folder / "in").iterdir():
            path.write_text(head + "".join("\t".join(row) + "\n" for row in stars[f"star{path.name.split('.')[1]}"]))
        survey, count = self.ingest("in", "--band", "B", out="tabs/survey")
        self.check_curves(survey, stars, rename=lambda name: f"1.{numbers[name]}.614")
        self.assertEqual((survey.band, count["of another band, left out"]), ("B", 3))
        lost = self.refuse(1, "in/lc_1.0.614.R.mjd", "in/lc_1.1.614.R.mjd", "--band", "B", out="lost/survey", ranks=2)
        self.assertIn("2 of 2 files are MACHO star files of the other band", lost)

    def test_macho_files_beside_a_table(self):
        """One survey, one band, wherever its rows come from."""
        stars = make_stars(2, least=30)
        self.write("lc_1.2.3.R.mjd", "# a star\n" + "".join(" ".join(row) + "\n" for row in stars["star0"]))
        for band in "VR":
            rows = "".join(f"s,{','.join(row)},{band}\n" for row in stars["star1"])
            self.write(f"{band}.csv", "id,mjd,mag,err,band\n" + rows)
        for ranks in (None, 2):
            message = self.refuse(1, "lc_1.2.3.R.mjd", "V.csv", out="mixed/survey", ranks=ranks)
            self.assertIn("of band R and the tables of band 'V'", message)
        survey, _ = self.ingest("lc_1.2.3.R.mjd", "R.csv", "--filter", "off", shards=1)
        self.assertEqual((survey.band, len(survey.curves)), ("R", 2))


class SameSurvey(IngestTest):
    def test_order_files_and_ranks_do_not_matter(self):
        stars = make_stars(60, most=60)
        whole = self.write("whole.csv", long_csv(stars))
        first, _ = self.ingest(whole, shards=5)
        self.check_curves(first, stars)
        rows = long_csv(stars, seed=9, header="").splitlines(keepends=True)
        parts = [self.write(f"part{i}.csv", "id,mjd,mag,err\n" + "".join(rows[i::4])) for i in range(4)]
        parts[2] = self.write("part2.csv.gz", gzip.compress(parts[2].read_bytes()))
        for name, words, ranks in (("zipped", [self.write("w.gz", gzip.compress(whole.read_bytes()))], None), ("shuffled", parts, None),
                                   ("backwards", parts[::-1], None), ("two", parts, 2), ("three", parts[::-1], 3), ("six", [whole], 6)):
            with self.subTest(name):
                again, _ = self.ingest(*words, shards=5, out=f"{name}/survey", ranks=ranks)
                self.assertEqual(again.bytes, first.bytes)
        other, _ = self.ingest(whole, "--filter", "off", shards=5, out="other/survey")
        self.assertNotEqual(other.id, first.id)

    def test_rank_0_lists_the_files(self):
        """Each rank starts in a folder of its own, and the second one's has a file more: rank 0's list is what counts."""
        stars = make_stars(6, least=30)
        names = list(stars)
        for folder, files in (("one", names), ("two", ["another", *names])):
            for name in files:
                self.write(f"{folder}/in/{name}.csv", "".join(",".join(row) + "\n" for row in stars.get(name, stars[names[0]])))
        part = ["ingest", "--out", self.folder / "out/survey", "--shards", 4, "in"]
        words = [MPIRUN]
        for folder in ("one", "two"):
            words += [":"] * (folder == "two") + ["-n", "1", "-wdir", self.folder / folder, PROGRAM, *part]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_curves(Survey(self.folder / "out/survey"), stars)

    def test_many_shards_and_long_stars(self):
        """Buffers overflow, most shards stay empty, one star has more rows than a buffer holds."""
        stars = make_stars(3, least=3000, most=9000)
        survey, _ = self.ingest(self.write("a.csv", long_csv(stars, seed=1)), "--filter", "off", shards=200)
        self.check_curves(survey, stars, "off")
        self.assertEqual(survey.shards, 200)

    def test_negative_zero_is_zero(self):
        rows = [("0.0", f"{15 + i * 0.1:.1f}", "0.1") for i in range(20)]
        path = self.write("a.csv", long_csv({"a": rows}))
        twice = self.write("b.csv", long_csv({"a": [("-0.0", m, e) for _, m, e in rows] + rows}))
        first, _ = self.ingest(path, out="a/survey")
        second, count = self.ingest(twice, "--drop-duplicates", out="b/survey")
        self.assertEqual(count["duplicates, dropped"], 20)
        self.assertEqual(first.curves["a"][0].tobytes(), second.curves["a"][0].tobytes())


class BadRows(IngestTest):
    def test_each_reason_is_counted(self):
        stars = make_stars(2, least=50, most=60)
        good = long_csv(stars)
        bad = {"bad: too few fields": ["star0,50000,15", "star0", ",,"],
               "bad: no usable id": [",50000,15,0.1", "x" * 256 + ",50000,15,0.1", "a\x01b,50000,15,0.1"],
               "bad: time, magnitude or error is not a number":
                   ["star0,nan,15,0.1", "star0,50000,,0.1", "star0,50000,15,inf", "star0,5e4d,15,0.1", "star0,50000,1e60,0.1",
                    "id,mjd,mag,err", "star0,50000,15.0.1,0.1"],
               "bad: error not between 0 and 1": ["star0,50000,15,0", "star0,50000,15,1", "star0,50000,-99,9.999", "star0,50000,15,-0.1"]}
        lines = good.splitlines() + [line for group in bad.values() for line in group]
        random.Random(3).shuffle(lines[1:])
        survey, count = self.ingest(self.write("a.csv", "\n".join(lines)), "--filter", "off")
        for reason, group in bad.items():
            self.assertEqual(count[reason], len(group), reason)
        self.check_curves(survey, stars, "off")

    def test_repeated_rows(self):
        stars = make_stars(2, least=50, most=60)
        rows = [row for name in stars for row in stars[name]]
        for name in stars:
            stars[name] += stars[name][::3]
        repeated = sum(map(len, stars.values())) - len(rows)
        path = self.write("a.csv", long_csv(stars, seed=2))
        kept, count = self.ingest(path, "--filter", "off", out="a/survey")
        self.check_curves(kept, stars, "off")
        self.assertEqual(count["repeat a row of their star: kept, --drop-duplicates leaves them out"], repeated)
        self.assertIn("duplicates: kept", kept.cuts)
        dropped, count = self.ingest(path, "--filter", "off", "--drop-duplicates", out="b/survey")
        self.check_curves(dropped, stars, "off", distinct=True)
        self.assertEqual(count["duplicates, dropped"], repeated)
        self.assertIn("duplicates: dropped", dropped.cuts)
        self.assertNotEqual(dropped.id, kept.id)

    def test_stars_without_a_good_row_are_counted(self):
        stars = make_stars(2, least=50)
        table = long_csv(stars) + "lost,50000,15,9.999\nlost,50001,15,nan\nsingle,50000,15,0.1\n"
        _, count = self.ingest(self.write("a.csv", table), "--filter", "off")
        self.assertEqual((count["light curves"], count["dropped: fewer than 5 observations"]), (4, 2))

    def test_nothing_left_is_an_error(self):
        constant = long_csv({"a": [(str(i), "15", "0.1") for i in range(100)]})
        self.assertIn("no light curve is left of 1: 1 have fewer than 5", self.refuse(1, self.write("a.csv", constant)))
        self.assertIn("no row of observations", self.refuse(1, self.write("b.csv", "id,mjd,mag,err\n")))
        calm = long_csv({"a": [(str(i), f"{15 + i * 1e-4:.4f}", "0.1") for i in range(100)]})
        self.assertIn("--filter off", self.refuse(1, self.write("c.csv", calm), ranks=2))


class Faults(IngestTest):
    def test_bad_files(self):
        good = self.write("good.csv", long_csv(make_stars(5, least=30)))
        zipped = gzip.compress(good.read_bytes())
        middle = len(zipped) // 2
        files = {
            "empty.csv": (b"", "is empty"),
            "blank.csv": ("\n \n", "is in no format that ingest knows"),
            "words.txt": ("Lorem ipsum dolor\nsit amet\n", "first line is 'Lorem ipsum dolor'"),
            "binary": (bytes(range(256)) * 400, "is in no format that ingest knows"),
            "giant": (b"x" * 3000000, "xxx...'"),
            "noid.csv": ("a,b,c\n1,2,0.1\n", "first line is 'a,b,c'"),
            "headless.csv": ("7,50000,15,0.1\n7,50001,15,0.1\n", "first line is '7,50000,15,0.1'"),
            "short.csv.gz": (zipped[:-9], "is cut short"),
            "shorter.csv.gz": (zipped[:20], "is cut short"),
            "wrong.csv.gz": (zipped[:middle] + bytes([zipped[middle] ^ 255]) + zipped[middle + 1:], "is damaged"),
            "behind.csv.gz": (zipped + b"more", "is damaged"),
            "empty.csv.gz": (gzip.compress(b""), "is empty"),
        }
        for name, (content, wanted) in files.items():
            with self.subTest(name):
                message = self.refuse(1, good, self.write(name, content), good, ranks=3 if name.startswith("short") else None)
                self.assertIn(name, message)
                self.assertIn(wanted, message)
                self.assertLess(len(message), 400)
        self.assertIn("No such file", self.refuse(1, good, "nowhere.csv"))
        (self.folder / "nothing").mkdir()
        self.assertIn("has no files", self.refuse(1, "nothing"))

    def test_one_star_in_two_files(self):
        rows = "".join(",".join(row) + "\n" for row in make_stars(1, least=50)["star0"])
        message = self.refuse(1, self.write("a/s.csv", rows), self.write("b/s.csv", rows), ranks=2)
        self.assertIn("a/s.csv", message)
        self.assertIn("b/s.csv", message)

    def test_out(self):
        good = self.write("good.csv", long_csv(make_stars(5, least=30)))
        self.write("out/survey/file", "mine")
        self.assertIn("is there already", self.refuse(1, good, stays=["survey"]))
        self.assertIn("is there already", self.refuse(1, good, out="good.csv", stays=["good.csv", "out"]))
        self.expect(1, "ingest", "--out", "good.csv/survey", good)
        for out in (".", "out/..", "/"):
            self.assertIn("give the survey's folder a name", self.expect(2, "ingest", "--out", out, good).message)
        self.assertEqual(self.left("x"), ["good.csv", "out"])
        self.expect(2, "ingest", good)
        self.expect(2, "ingest", "--out", "x")
        self.expect(2, "ingest", "--out", "x", "--shards", 0, good)
        (self.folder / "empty").mkdir()
        self.expect(0, "ingest", "--out", "empty///", good)
        Survey(self.folder / "empty")

    def test_folders_that_were_made_are_removed(self):
        self.refuse(1, self.write("bad", "bad"), out="one/two/three/survey")
        self.assertFalse((self.folder / "one").exists())
        (self.folder / "one").mkdir()
        self.refuse(1, "bad", out="one//two/survey", stays=None)
        self.assertEqual(os.listdir(self.folder / "one"), [])

    def test_what_a_killed_ingest_left_is_replaced(self):
        good = self.write("good.csv", long_csv(make_stars(5, least=30)))
        self.write("out/survey.partial/spill-00000-00001", "rest")
        self.write("out/survey.partial/shard-00000-of-00064.h5.partial", "rest")
        survey, _ = self.ingest(good, shards=None)
        self.assertEqual(survey.shards, 64)
        self.write("new/survey.partial/thesis.tex", "precious")
        self.assertIn("is in the way", self.refuse(1, good, out="new/survey", stays=["survey.partial"]))
        self.assertTrue((self.folder / "new/survey.partial/thesis.tex").exists())
        shard = self.write("new/survey.partial/shard-00000-of-00002.h5", "half a survey")
        self.refuse(1, good, out="new/survey", stays=["survey.partial"])
        self.assertTrue(shard.exists())
        survey, _ = self.ingest(good, out="w/whole.partial")
        self.assertIn("looks like a whole survey", self.refuse(1, good, out="w/whole", stays=["whole.partial"]))
        self.assertEqual(sorted(Survey(self.folder / "w/whole.partial").curves), sorted(survey.curves))

    def test_two_at_work_on_one_survey(self):
        good = self.write("good.csv", long_csv(make_stars(5, least=30)))
        at_work = self.write("out/survey.partial-lock", "")
        self.write("out/survey.partial/spill-00000-00001", "rows")
        with open(at_work) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for ranks in (None, 2):
                message = self.refuse(1, good, stays=["survey.partial", "survey.partial-lock"], ranks=ranks)
                self.assertIn("another run is making this survey", message)
        self.assertTrue((self.folder / "out/survey.partial/spill-00000-00001").exists())
        self.ingest(good, ranks=2)

    def test_a_link_to_where_there_is_room(self):
        good = self.write("good.csv", long_csv(make_stars(5, least=30)))
        (self.folder / "scratch/room").mkdir(parents=True)
        (self.folder / "out").mkdir()
        (self.folder / "out/survey").symlink_to(self.folder / "scratch/room")
        survey, _ = self.ingest(good, ranks=2)
        self.assertEqual(survey.name, "survey")
        self.assertTrue((self.folder / "out/survey").is_symlink())
        self.assertEqual(sorted(os.listdir(self.folder / "scratch")), ["room"])
        (self.folder / "out/lost").symlink_to(self.folder / "nowhere")
        self.assertIn("is a link to what is not there", self.expect(1, "ingest", "--out", "out/lost", good).message)

    def test_full_disk(self):
        """While rows are spilled, and while shards are written; needs the right to mount a small file system."""
        stars = make_stars(4, least=20000, most=30000)
        good = self.write("good.csv", long_csv(stars))
        (self.folder / "disk").mkdir()
        spilled = sum(map(len, stars.values())) * 16 // 1024
        for kilobytes, ranks in ((64, 2), (spilled + 100, 1)):
            mount = f'mount -t tmpfs -o size={kilobytes}k none disk || exit 77; "$@"; status=$?; ls -A disk; exit $status'
            words = ["mpirun", "-n", str(ranks), PROGRAM, "ingest", "--out", "disk/survey", "--shards", "2", "--filter", "off", str(good)]
            done = subprocess.run(["unshare", "--mount", "--map-root-user", "bash", "-c", mount, "bash", *words], cwd=self.folder,
                                  capture_output=True, text=True, timeout=120)
            if done.returncode == 77 or "unshare" in done.stderr:
                self.skipTest("no right to mount a small file system")
            self.assertEqual(done.returncode, 1, done.stderr)
            lines = [line for line in done.stderr.splitlines() if line.startswith("astromer: ")]
            self.assertEqual(len(lines), 1, done.stderr)
            self.assertRegex(lines[0], r"^astromer: disk/survey.partial/\S+: cannot be written.*No space left on device")
            self.assertEqual(done.stdout, "")


class Labels(IngestTest):
    def test_labels(self):
        stars = make_stars(12, least=30)
        keep = {name: cut(rows)[0] is not None for name, rows in stars.items()}
        classes = {name: ["RR Lyrae, ab", "Mira", "Cep \"0\""][i % 3] for i, name in enumerate(stars) if i != 4}
        data = self.write("a.csv", long_csv(stars))
        rows = [(name, '"' + label.replace('"', '""') + '"') for name, label in {**classes, "elsewhere": "Mira"}.items()]
        tables = {
            "plain": "".join(f"{name},{label}\n" for name, label in rows),
            "header": "ID,Class\r\n" + "".join(f"{name},{label}\r\n" for name, label in rows),
            "turned": "class;ra;id\n" + "".join(f"{label};1;{name}\n" for name, label in rows),
            "quoted": "".join(f'"{name}", {label}, "more"\n' for name, label in rows) + 'star4,\n\nelsewhere,Mira',
        }
        for name, table in tables.items():
            with self.subTest(name):
                survey, count = self.ingest(data, "--labels", self.write("labels", table), out=f"{name}/survey", ranks=2)
                self.assertEqual(survey.classes, ['Cep "0"', "Mira", "RR Lyrae, ab"])
                self.assertEqual({star: curve[3] for star, curve in survey.curves.items()},
                                 {star: classes.get(star) for star in stars if keep[star]})
                self.assertEqual((count["labels"], count["without such a star in the files"]), (12, 1))
                self.assertEqual(count.get("of light curves that were dropped", 0), sum(not keep[star] for star in classes))
                self.assertEqual(count["Mira"], sum(keep[star] and label == "Mira" for star, label in classes.items()))

    def test_unknown_header(self):
        """A first line in words that nobody knows does not become a class; a star without a digit in its name does no harm."""
        stars = make_stars(6, least=30)
        data, rows = self.write("a.csv", long_csv(stars)), [f"star{i},{'ab'[i % 2]}" for i in range(6)]
        for i, (header, classes) in enumerate((("Ident,Art", ["a", "b"]), ("Ident,class", ["a", "b"]), ("id,Art", ["a", "b"]),
                                               ("Vega,a", ["a", "b"]), ("star9,c", ["a", "b", "c"]))):
            table = self.write("labels", "\n".join([header, *rows]))
            survey, _ = self.ingest(data, "--labels", table, "--filter", "off", out=f"{i}/survey")
            self.assertEqual(survey.classes, classes)
            self.assertEqual({name: curve[3] for name, curve in survey.curves.items()}, {f"star{i}": "ab"[i % 2] for i in range(6)})
        message = self.refuse(1, data, "--labels", self.write("labels", "id,ra,Art\nstar1,3,a\n"), out="bad/survey")
        self.assertIn("without a column named class", message)

    def test_macho_ids_with_a_band(self):
        rows = make_stars(1, least=50, seed=4)["star0"]
        for band in "RB":
            self.write(f"in/lc_1.2.3.{band}.mjd", "#MJD Mag Err\n" + "".join(" ".join(row) + "\n" for row in rows))
        survey, count = self.ingest("in", "--labels", self.write("labels", "1.2.3,RRab\n"), "--filter", "off")
        self.assertEqual({name: curve[3] for name, curve in survey.curves.items()}, {"1.2.3.R": "RRab", "1.2.3.B": "RRab"})
        self.assertNotIn("without such a star in the files", count)

    def test_bad_labels(self):
        data = self.write("a.csv", long_csv(make_stars(5, least=30)))
        for table, wanted in (("", "is empty"), ("id,class\n", "has no labels"), ("star1,Mira\nstar2\n", "line 2 has no class"),
                              ("star1,Mira\nstar1,RRab\n", "two classes"), ("star1,Mira\n,RRab\n", "line 2 has no id")):
            message = self.refuse(1, data, "--labels", self.write("labels.csv", table), ranks=2)
            self.assertIn("labels.csv", message)
            self.assertIn(wanted, message)
        self.assertIn("nowhere", self.refuse(1, data, "--labels", "nowhere"))


class Memory(IngestTest):
    def peak(self, path):
        """The most memory that an ingest of two shards had, in bytes."""
        peak = self.peak_bytes("ingest", "--out", "out/survey", "--shards", 2, "--filter", "off", path)
        shutil.rmtree(self.folder / "out")
        return peak

    def test_does_not_grow_with_the_rows(self):
        """Eight times the rows, several portions of a shard, whether the rows of a star stand together or not."""
        pool = ["%.4f,%.3f,%.3f\n" % (50000 + i / 7, 15 + (i * 7919 % 1000) / 1000, 0.02) for i in range(500)]
        peaks = {}
        for name, count in (("few", 800), ("many", 6400)):
            with open(self.folder / "stars.csv", "w") as file, open(self.folder / "nights.csv", "w") as nights:
                file.write("id,mjd,mag,err\n")
                nights.write("id,mjd,mag,err\n")
                for star in range(count):
                    file.write(f"{star}," + f"{star},".join(pool))
                for row in pool:
                    nights.write("".join(f"{star},{row}" for star in range(count)))
            peaks[name] = [self.peak("stars.csv"), self.peak("nights.csv")]
        for few, many in zip(peaks["few"], peaks["many"]):
            self.assertLess(many, few + 16e6, peaks)


class Bench(IngestTest):
    def test_it_measures(self):
        """bench/ingest on little: it holds ingest's count of rows to its own, and knows all inputs."""
        build = Path(PROGRAM).parent
        if not (build / "astromer").exists():
            self.skipTest("the program under test is not named astromer")
        subprocess.run([ROOT / "bench" / "ingest", "--build", build, "--rows", "6000", "--many", "8000", "--rounds", "1", "--folder",
                        self.folder, "--out", self.folder / "result.json"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=100)
        numbers = json.loads((self.folder / "result.json").read_text())["medians"]
        self.assertEqual(list(numbers), ["csv", "csv, rows by time", "csv.gz", "star files", "csv, many rows"])
        self.assertEqual({n["rows"] for n in numbers.values()}, {6000, 8000})
        for name, n in numbers.items():
            self.assertTrue(n["rows_per_second"] > 0 and 1e6 < n["peak_bytes"] < 1e9, (name, n))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["result.json"])


class RealData(IngestTest):
    def test_asas(self):
        """All counts and all light curves, against numpy."""
        if not (DATA / "asas").exists():
            self.skipTest(f"{DATA}/asas is not here")
        with gzip.open(DATA / "asas" / "lightcurves.csv.gz") as file:
            file.readline()
            table = np.fromstring(file.read().replace(b"\n", b",").decode(), sep=",").reshape(-1, 4)
        survey, count = self.ingest(DATA / "asas" / "lightcurves.csv.gz", "--labels", DATA / "asas" / "labels.csv", "--band", "V",
                                    shards=None)
        order = np.argsort(table[:, 0], kind="stable")
        ids, starts = np.unique(table[order, 0], return_index=True)
        stars = {str(int(star)): rows for star, rows in zip(ids, np.split(table[order, 1:], starts[1:]))}
        self.check_curves(survey, stars)
        self.assertEqual((count["light curves"], count["labels"]), (len(ids), 12520))
        labels = dict(line.split(",", 1) for line in (DATA / "asas" / "labels.csv").read_text().splitlines()[1:])
        self.assertEqual({name: curve[3] for name, curve in survey.curves.items()}, {name: labels[name] for name in survey.curves})

    def test_macho(self):
        if not (DATA / "macho").exists():
            self.skipTest(f"{DATA}/macho is not here")
        paths = sorted((DATA / "macho").glob("*.mjd"))
        stars = {path.name[3:-4]: [line.split() for line in path.read_text().splitlines() if line[0] != "#"] for path in paths}
        survey, _ = self.ingest(*paths, "--filter", "off", out="both/survey")
        self.check_curves(survey, stars, "off")
        survey, _ = self.ingest(*paths, "--filter", "off", "--band", "R", out="red/survey")
        self.check_curves(survey, {name[:-2]: rows for name, rows in stars.items() if name.endswith("R")}, "off")


if __name__ == "__main__":
    main()
