"""What is wrong with this router and its host: facts are gathered, then judged.

`facts` says what is looked at, `gather` looks, `checks` judges without looking, `findings` is the judgement.
`foreign` reads what others have in nftables.
"""
