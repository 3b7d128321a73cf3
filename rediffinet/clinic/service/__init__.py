"""`rediff serve`: cases over HTTP. A web process that never computes, a computing process that never listens.

app       what is answered            problems  how a refusal looks (RFC 9457)
uploads   bytes from a client         archives  what a client packed
store     jobs in SQLite              worker    the computing process, and supervisor, who looks after it
dicomweb  an archive of images        computing one case from files to files
tokens    who may ask                 logs      what is told of it
protocol  clients that never come to the point
"""
