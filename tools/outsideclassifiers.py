# SPDX-License-Identifier: MIT
"""The classifiers of tools/outside-baselines: which there are, which settings each may choose among, and how one is fitted on a fold's
training stars, chosen on its validation stars and judged on its test stars."""
import time
import warnings

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TREES = 500
ITERATIONS_MOST = 300  # of the logistic regression; regularised as it is, more change nothing

# What is chosen on the validation set: the last equal one loses.
OF_HEAD = {
    'forest_features': [{'max_features': share, 'min_samples_leaf': leaf} for share in ('sqrt', 0.3) for leaf in (1, 3)],
    'knn_embedding': [{'k': k, 'standardised': scaled} for scaled in (True, False) for k in (1, 3, 5, 9, 15, 25)],
    'logistic_embedding': [{'C': strength} for strength in (0.001, 0.01, 0.1, 1.0)],
    'forest_embedding': [{'max_features': 'sqrt', 'min_samples_leaf': leaf} for leaf in (1, 3)],
}
HEADS = tuple(OF_HEAD)


def input_of(head):
    return head.rpartition('_')[2]  # features or embedding


def build(head, setting, seed, jobs):
    """An estimator that has seen nothing yet."""
    if head.startswith('forest'):
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=jobs, **setting)
        return make_pipeline(SimpleImputer(strategy='median'), forest)
    if head.startswith('knn'):
        neighbours = KNeighborsClassifier(setting['k'], metric='cosine', algorithm='brute')
        return make_pipeline(StandardScaler(), neighbours) if setting['standardised'] else make_pipeline(neighbours)
    return make_pipeline(StandardScaler(), LogisticRegression(C=setting['C'], max_iter=ITERATIONS_MOST, random_state=seed))


def probabilities(model, vectors, classes):
    """rows x classes; 0 for a class that the training set did not have."""
    found = np.zeros((len(vectors), classes))
    found[:, model.classes_] = model.predict_proba(vectors)
    return found


def macro_f1(label, prediction, classes):
    return f1_score(label, prediction, labels=range(classes), average='macro', zero_division=0)


class Cell:
    """One classifier on one fold with one number of samples a class. tables: {name: stars x width}, the inputs that it may choose
    among, with a row for each star of the folds' table. Of the test stars nothing is used before the choice is made."""

    def __init__(self, head, tables, folds, fold, samples, seed=0, jobs=1):
        self.head, self.folds, self.fold, self.samples, self.seed, self.jobs = head, folds, fold, samples, seed, jobs
        start, classes = time.monotonic(), len(folds.classes)
        training, validation, self.test = folds.training[fold][samples], folds.validation[fold], folds.test[fold]
        best = -1.0
        for name, table in tables.items():
            for setting in OF_HEAD[head]:
                if setting.get('k', 1) > len(training):
                    continue
                model = self.fit(setting, table[training], folds.label[training])
                prediction = probabilities(model, table[validation], classes).argmax(axis=1)
                score = macro_f1(folds.label[validation], prediction, classes)
                if score > best:
                    best, chosen, self.chosen = score, (model, table), {'input': name, **setting}
        model, table = chosen
        self.probability = probabilities(model, table[self.test], classes)
        self.label, self.prediction = folds.label[self.test], self.probability.argmax(axis=1)
        self.macro_f1 = macro_f1(self.label, self.prediction, classes)
        self.accuracy = accuracy_score(self.label, self.prediction)
        self.seconds = time.monotonic() - start

    def fit(self, setting, vectors, label):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            warnings.filterwarnings('ignore', message='Skipping features without any observed values')
            return build(self.head, setting, self.seed, self.jobs).fit(vectors, label)

    def line(self):
        """With the keys of `astromer classify`; null for what only a network or only windows have."""
        return {'survey': self.folds.survey, 'samples': self.samples, 'fold': self.fold, 'head': self.head, 'encoder': self.encoder(),
                'macro_f1': None, 'accuracy': None, 'star_macro_f1': self.macro_f1, 'star_accuracy': self.accuracy, 'epochs': None,
                'best_epoch': None, 'seconds': round(self.seconds, 2), 'windows_test': None, 'stars_test': len(self.test),
                'chosen': self.chosen}

    def encoder(self):
        return 'frozen' if input_of(self.head) == 'embedding' else 'none'

    def contents(self):
        """The attributes and datasets of its result file, which are those of `astromer classify` without the windows."""
        folds = self.folds
        attributes = {'head': self.head, 'survey': folds.survey, 'fold': self.fold, 'samples': self.samples,
                      'encoder': self.encoder(), 'classes': folds.classes, 'star_macro_f1': self.macro_f1,
                      'star_accuracy': self.accuracy, 'seconds': self.seconds}
        confusion = confusion_matrix(self.label, self.prediction, labels=range(len(folds.classes)))
        return attributes, {'star/id': [folds.ids[row] for row in self.test], 'star/label': self.label.astype(np.int32),
                            'star/prediction': self.prediction.astype(np.int32),
                            'star/probability': self.probability.astype(np.float32), 'star_confusion': confusion.astype(np.int64)}
